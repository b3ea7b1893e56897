{
  blixard.profiles.monitoring.targets = [ "10.0.0.2:9100" ];
  blixard.profiles.monitoring.retention = "30d";
}
