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
#   docker buildx imagetools create -t ghcr.io/user/x:latest-cpu ghcr.io/user/x:$VERSION-cpu-amd64 ghcr.io/user/x:$VERSION-cpu-arm64
#   docker buildx imagetools create -t ghcr.io/user/x:$VERSION-cpu ghcr.io/user/x:$VERSION-cpu-amd64 ghcr.io/user/x:$VERSION-cpu-arm64

variable "IMAGE" {
  default = "ghcr.io/user/x"
}

variable "VERSION" {
  default = "dev"
}

variable "BRANCH" {
  default = "" # tags that name it are left out
}

variable "SHA" {
  default = "" # tags that name it are left out
}

group "default" {
  targets = [
    "base-os-cpu-amd64",
    "base-os-cpu-arm64",
    "base-os-gpu-amd64",
    "app-cpu-amd64",
    "app-cpu-arm64",
    "app-gpu-amd64",
  ]
}

group "base-os" {
  targets = ["base-os-cpu-amd64", "base-os-cpu-arm64", "base-os-gpu-amd64"]
}

group "app" {
  targets = ["app-cpu-amd64", "app-cpu-arm64", "app-gpu-amd64"]
}

group "cpu" {
  targets = ["base-os-cpu-amd64", "base-os-cpu-arm64", "app-cpu-amd64", "app-cpu-arm64"]
}

group "gpu" {
  targets = ["base-os-gpu-amd64", "app-gpu-amd64"]
}

target "base-os-cpu-amd64" {
  context    = "."
  dockerfile = "base"
  platforms  = ["linux/amd64"]
  contexts = {
    "debian:12" = "docker-image://debian:12@sha256:1111111111111111111111111111111111111111111111111111111111111111"
  }
  args = {
    "A" = "a \"b\" $${c} %%{D}"
    "V" = "${VERSION}"
  }
  labels = {
    "org.example" = "cpu"
  }
  secret = ["id=key,src=key.txt"]
  network    = "none"
  cache-from = ["type=registry,ref=ghcr.io/user/x:strata-cache-base.os.cpu.linux.amd64"]
  cache-to = ["type=registry,mode=max,ref=ghcr.io/user/x:strata-cache-base.os.cpu.linux.amd64"]
  tags = [
    "${IMAGE}:cpu-base.os-amd64-${VERSION}",
    "${IMAGE}:cpu-base.os-amd64-latest",
  ]
}

target "base-os-cpu-arm64" {
  context    = "."
  dockerfile = "base"
  platforms  = ["linux/arm64"]
  args = {
    "A" = "a \"b\" $${c} %%{D}"
    "V" = "${VERSION}"
  }
  labels = {
    "org.example" = "cpu"
  }
  secret = ["id=key,src=key.txt"]
  network    = "none"
  cache-from = ["type=registry,ref=ghcr.io/user/x:strata-cache-base.os.cpu.linux.arm64"]
  cache-to = ["type=registry,mode=max,ref=ghcr.io/user/x:strata-cache-base.os.cpu.linux.arm64"]
  tags = [
    "${IMAGE}:cpu-base.os-arm64-${VERSION}",
    "${IMAGE}:cpu-base.os-arm64-latest",
  ]
}

target "base-os-gpu-amd64" {
  context    = "."
  dockerfile = "base"
  platforms  = ["linux/amd64"]
  contexts = {
    "debian:12" = "docker-image://debian:12@sha256:1111111111111111111111111111111111111111111111111111111111111111"
  }
  args = {
    "A" = "a \"b\" $${c} %%{D}"
    "V" = "${VERSION}"
  }
  labels = {
    "org.example" = "gpu"
  }
  secret = ["id=key,src=key.txt"]
  network    = "none"
  cache-from = ["type=registry,ref=ghcr.io/user/x:strata-cache-base.os.gpu.linux.amd64"]
  cache-to = ["type=registry,mode=max,ref=ghcr.io/user/x:strata-cache-base.os.gpu.linux.amd64"]
  tags = [
    "${IMAGE}:gpu-base.os-${VERSION}",
    "${IMAGE}:gpu-base.os-latest",
  ]
}

target "app-cpu-amd64" {
  context    = "."
  dockerfile = "app"
  platforms  = ["linux/amd64"]
  contexts = {
    "base.os" = "target:base-os-cpu-amd64"
    "conf" = "etc"
  }
  args = {
    "A" = "a \"b\" $${c} %%{D}"
    "BASE_IMAGE" = "base.os"
    "V" = "${VERSION}"
  }
  labels = {
    "org.example" = "cpu"
  }
  cache-from = ["type=registry,ref=ghcr.io/user/x:strata-cache-app.cpu.linux.amd64"]
  cache-to = ["type=registry,mode=max,ref=ghcr.io/user/x:strata-cache-app.cpu.linux.amd64"]
  tags = compact([
    "${IMAGE}:${VERSION}-cpu-amd64",
    notequal("", BRANCH) ? "${IMAGE}:${BRANCH}-cpu-amd64" : "",
    notequal("", SHA) ? "${IMAGE}:${SHA}-cpu-amd64" : "",
  ])
}

target "app-cpu-arm64" {
  context    = "."
  dockerfile = "app"
  platforms  = ["linux/arm64"]
  contexts = {
    "base.os" = "target:base-os-cpu-arm64"
    "conf" = "etc"
  }
  args = {
    "A" = "a \"b\" $${c} %%{D}"
    "BASE_IMAGE" = "base.os"
    "V" = "${VERSION}"
  }
  labels = {
    "org.example" = "cpu"
  }
  cache-from = ["type=registry,ref=ghcr.io/user/x:strata-cache-app.cpu.linux.arm64"]
  cache-to = ["type=registry,mode=max,ref=ghcr.io/user/x:strata-cache-app.cpu.linux.arm64"]
  tags = compact([
    "${IMAGE}:${VERSION}-cpu-arm64",
    notequal("", BRANCH) ? "${IMAGE}:${BRANCH}-cpu-arm64" : "",
    notequal("", SHA) ? "${IMAGE}:${SHA}-cpu-arm64" : "",
  ])
}

target "app-gpu-amd64" {
  context    = "."
  dockerfile = "app"
  platforms  = ["linux/amd64"]
  contexts = {
    "base.os" = "target:base-os-gpu-amd64"
    "conf" = "etc"
  }
  args = {
    "A" = "a \"b\" $${c} %%{D}"
    "BASE_IMAGE" = "base.os"
    "V" = "${VERSION}"
  }
  labels = {
    "org.example" = "gpu"
  }
  cache-from = ["type=registry,ref=ghcr.io/user/x:strata-cache-app.gpu.linux.amd64"]
  cache-to = ["type=registry,mode=max,ref=ghcr.io/user/x:strata-cache-app.gpu.linux.amd64"]
  tags = compact([
    "${IMAGE}:${VERSION}-gpu-amd64",
    notequal("", BRANCH) ? "${IMAGE}:${BRANCH}-gpu-amd64" : "",
    notequal("", SHA) ? "${IMAGE}:${SHA}-gpu-amd64" : "",
  ])
}
