{
  blixard.profiles.container = {
    ports = [ 8080 8443 ];
    containers.web = {
      image = "docker.io/library/nginx:stable";
      ports = [ "8080:80" ];
    };
  };
}
