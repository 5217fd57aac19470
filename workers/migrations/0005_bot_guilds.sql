-- Which guilds each bot named in its last report: has_bot says whether there is one, so no report has to know of others'.

create table bot_guilds (
    bot_id bigint not null,
    guild_id bigint not null,
    primary key (bot_id, guild_id)
);
-- Whether a guild has a bot.
create index bot_guilds_guild on bot_guilds (guild_id);

alter table guild_activity drop column has_bot;

-- A bot's key is good from this version of the bot's stream on: below the last event that makes keys void it is void,
-- though the server that was to replace it may have died before it did.
alter table api_keys add column version bigint not null default 0;
