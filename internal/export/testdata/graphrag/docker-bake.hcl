# @mark
#
# The images of this project for builds without Strata. In the project's folder:
#
#   docker buildx bake -f plain/docker-bake.hcl --push
#
# A target that starts from another one (target:...) has to be built by the same builder: one builder for all
# platforms, with nodes or emulation for each. Groups: default (all), and each layer and variant by its name.

variable "IMAGE" {
  default = "graphrag"
}

variable "VERSION" {
  default = "dev"
}

group "default" {
  targets = [
    "base-amd64",
    "deps-amd64",
    "build-tools-amd64",
    "build-amd64",
    "runtime-amd64",
    "dev-amd64",
    "prod-amd64",
  ]
}

group "base" {
  targets = ["base-amd64"]
}

group "deps" {
  targets = ["deps-amd64"]
}

group "build-tools" {
  targets = ["build-tools-amd64"]
}

group "build" {
  targets = ["build-amd64"]
}

group "runtime" {
  targets = ["runtime-amd64"]
}

group "dev" {
  targets = ["dev-amd64"]
}

group "prod" {
  targets = ["prod-amd64"]
}

target "base-amd64" {
  context    = "."
  dockerfile = "Dockerfile"
  target     = "base"
  platforms  = ["linux/amd64"]
  tags = [
    "${IMAGE}:base-${VERSION}",
    "${IMAGE}:base-latest",
  ]
}

target "deps-amd64" {
  context    = "."
  dockerfile = "Dockerfile"
  target     = "deps"
  platforms  = ["linux/amd64"]
  contexts = {
    "base" = "target:base-amd64"
  }
  tags = [
    "${IMAGE}:deps-${VERSION}",
    "${IMAGE}:deps-latest",
  ]
}

target "build-tools-amd64" {
  context    = "."
  dockerfile = "Dockerfile"
  target     = "build-tools"
  platforms  = ["linux/amd64"]
  contexts = {
    "deps" = "target:deps-amd64"
  }
  tags = [
    "${IMAGE}:build-tools-${VERSION}",
    "${IMAGE}:build-tools-latest",
  ]
}

target "build-amd64" {
  context    = "."
  dockerfile = "Dockerfile"
  target     = "build"
  platforms  = ["linux/amd64"]
  contexts = {
    "build-tools" = "target:build-tools-amd64"
  }
  tags = [
    "${IMAGE}:build-${VERSION}",
    "${IMAGE}:build-latest",
  ]
}

target "runtime-amd64" {
  context    = "."
  dockerfile = "Dockerfile"
  target     = "runtime"
  platforms  = ["linux/amd64"]
  contexts = {
    "base" = "target:base-amd64"
  }
  tags = [
    "${IMAGE}:runtime-${VERSION}",
    "${IMAGE}:runtime-latest",
  ]
}

target "dev-amd64" {
  context    = "."
  dockerfile = "Dockerfile"
  target     = "dev"
  platforms  = ["linux/amd64"]
  contexts = {
    "build-tools" = "target:build-tools-amd64"
  }
  tags = [
    "${IMAGE}:latest-dev",
    "${IMAGE}:${VERSION}-dev",
  ]
}

target "prod-amd64" {
  context    = "."
  dockerfile = "Dockerfile"
  target     = "prod"
  platforms  = ["linux/amd64"]
  contexts = {
    "build" = "target:build-amd64"
    "runtime" = "target:runtime-amd64"
  }
  tags = [
    "${IMAGE}:latest",
    "${IMAGE}:${VERSION}",
  ]
}
