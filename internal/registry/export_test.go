package registry

// DockerCredentialsWithin is DockerCredentials with another limit for helpers.
var DockerCredentialsWithin = dockerCredentials
