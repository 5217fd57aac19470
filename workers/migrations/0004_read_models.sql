-- Which version of each read model's tables is in the database; what does not fit the program is folded anew.

create table read_models (
    projector text primary key,
    fingerprint text not null
);
