{
  blixard.profiles.webserver.port = 8080;
  services.nginx.recommendedGzipSettings = false;
}
