# The image: our executables, under the names that weft.yaml and flannel's manifests call, and
# nothing else. `make image` makes the same without docker. Built for the machine it is built on.
ARG RUST=docker.io/library/rust:1-slim-bookworm
FROM ${RUST} AS build
WORKDIR /src
COPY . .
RUN apt-get update && apt-get install -y --no-install-recommends make && make image-root

FROM scratch
COPY --from=build /src/dist/image/ /
ENV PATH=/opt/bin:/usr/local/bin:/usr/bin:/bin
ENTRYPOINT ["/opt/bin/weftd"]
