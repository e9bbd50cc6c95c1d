# @mark
#
# The images of this project for builds without Strata. In the project's folder:
#
#   docker buildx bake -f plain/docker-bake.hcl --push
#
# A target that starts from another one (target:...) has to be built by the same builder: one builder for all
# platforms, with nodes or emulation for each. Groups: default (all), and each layer and variant by its name.
# Bake makes no index over targets; when all are pushed:
#
#   docker buildx imagetools create -t mcp-ragex:latest-cpu mcp-ragex:latest-cpu-amd64 mcp-ragex:latest-cpu-arm64
#   docker buildx imagetools create -t mcp-ragex:$VERSION-cpu mcp-ragex:$VERSION-cpu-amd64 mcp-ragex:$VERSION-cpu-arm64

variable "IMAGE" {
  default = "mcp-ragex"
}

variable "VERSION" {
  default = "dev"
}

group "default" {
  targets = [
    "base-cpu-amd64",
    "base-cpu-arm64",
    "base-cuda-amd64",
    "ml-cpu-amd64",
    "ml-cpu-arm64",
    "ml-cuda-amd64",
    "app-cpu-amd64",
    "app-cpu-arm64",
    "app-cuda-amd64",
  ]
}

group "base" {
  targets = ["base-cpu-amd64", "base-cpu-arm64", "base-cuda-amd64"]
}

group "ml" {
  targets = ["ml-cpu-amd64", "ml-cpu-arm64", "ml-cuda-amd64"]
}

group "app" {
  targets = ["app-cpu-amd64", "app-cpu-arm64", "app-cuda-amd64"]
}

group "cpu" {
  targets = [
    "base-cpu-amd64",
    "base-cpu-arm64",
    "ml-cpu-amd64",
    "ml-cpu-arm64",
    "app-cpu-amd64",
    "app-cpu-arm64",
  ]
}

group "cuda" {
  targets = ["base-cuda-amd64", "ml-cuda-amd64", "app-cuda-amd64"]
}

target "base-cpu-amd64" {
  context    = "."
  dockerfile = "docker/cpu/Dockerfile.base"
  platforms  = ["linux/amd64"]
  tags = [
    "${IMAGE}:cpu-base-amd64-${VERSION}",
    "${IMAGE}:cpu-base-amd64-latest",
  ]
}

target "base-cpu-arm64" {
  context    = "."
  dockerfile = "docker/arm64/Dockerfile.base"
  platforms  = ["linux/arm64"]
  tags = [
    "${IMAGE}:cpu-base-arm64-${VERSION}",
    "${IMAGE}:cpu-base-arm64-latest",
  ]
}

target "base-cuda-amd64" {
  context    = "."
  dockerfile = "docker/cuda/Dockerfile.base"
  platforms  = ["linux/amd64"]
  tags = [
    "${IMAGE}:cuda-base-${VERSION}",
    "${IMAGE}:cuda-base-latest",
  ]
}

target "ml-cpu-amd64" {
  context    = "."
  dockerfile = "docker/cpu/Dockerfile.ml"
  platforms  = ["linux/amd64"]
  contexts = {
    "base" = "target:base-cpu-amd64"
  }
  args = {
    "BASE_IMAGE" = "base"
  }
  tags = [
    "${IMAGE}:cpu-ml-amd64-${VERSION}",
    "${IMAGE}:cpu-ml-amd64-latest",
  ]
}

target "ml-cpu-arm64" {
  context    = "."
  dockerfile = "docker/arm64/Dockerfile.ml"
  platforms  = ["linux/arm64"]
  contexts = {
    "base" = "target:base-cpu-arm64"
  }
  args = {
    "BASE_IMAGE" = "base"
  }
  tags = [
    "${IMAGE}:cpu-ml-arm64-${VERSION}",
    "${IMAGE}:cpu-ml-arm64-latest",
  ]
}

target "ml-cuda-amd64" {
  context    = "."
  dockerfile = "docker/cuda/Dockerfile.ml"
  platforms  = ["linux/amd64"]
  contexts = {
    "base" = "target:base-cuda-amd64"
  }
  args = {
    "BASE_IMAGE" = "base"
  }
  tags = [
    "${IMAGE}:cuda-ml-${VERSION}",
    "${IMAGE}:cuda-ml-latest",
  ]
}

target "app-cpu-amd64" {
  context    = "."
  dockerfile = "docker/app/Dockerfile"
  platforms  = ["linux/amd64"]
  contexts = {
    "ml" = "target:ml-cpu-amd64"
  }
  args = {
    "BASE_IMAGE" = "ml"
  }
  tags = [
    "${IMAGE}:latest-cpu-amd64",
    "${IMAGE}:${VERSION}-cpu-amd64",
  ]
}

target "app-cpu-arm64" {
  context    = "."
  dockerfile = "docker/app/Dockerfile"
  platforms  = ["linux/arm64"]
  contexts = {
    "ml" = "target:ml-cpu-arm64"
  }
  args = {
    "BASE_IMAGE" = "ml"
  }
  tags = [
    "${IMAGE}:latest-cpu-arm64",
    "${IMAGE}:${VERSION}-cpu-arm64",
  ]
}

target "app-cuda-amd64" {
  context    = "."
  dockerfile = "docker/app/Dockerfile"
  platforms  = ["linux/amd64"]
  contexts = {
    "ml" = "target:ml-cuda-amd64"
  }
  args = {
    "BASE_IMAGE" = "ml"
  }
  tags = [
    "${IMAGE}:cuda-amd64",
    "${IMAGE}:${VERSION}-cuda-amd64",
    "${IMAGE}:cuda-latest",
  ]
}
