# A module of its own, as people keep them in files.
{ config, ... }:
{
  users.motd = "This is ${config.networking.hostName}.\n";
}
