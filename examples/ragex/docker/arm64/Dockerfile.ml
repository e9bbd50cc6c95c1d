# The dependency layer: rebuilt when a list in requirements/ changes, or when the base under it does.
# The lists hold Debian package names, one a line; app.txt is among them because what the code imports is installed
# here, which leaves docker/app/Dockerfile with nothing to run.
ARG BASE_IMAGE
FROM ${BASE_IMAGE}

LABEL org.opencontainers.image.title="ragex ml (arm64)" \
      org.opencontainers.image.description="What the search service imports"

COPY requirements/base-ml.txt requirements/cpu-arm64.txt requirements/app.txt /opt/ragex/requirements/

RUN apt-get update \
 && apt-get install -y --no-install-recommends $(sed 's/#.*//' /opt/ragex/requirements/*.txt) \
 && apt-get clean \
 && rm -rf /var/lib/apt/lists/* /var/cache/debconf/*-old /var/cache/ldconfig/aux-cache /var/lib/dpkg/*-old \
 && find /var/log -type f -delete
