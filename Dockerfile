# The sidecar on CPython 3.15, without shell, pip and package manager.  It runs as root by default, since drivers' sockets
# belong to root, and works under any uid, with a read-only root and without capabilities.
ARG PYTHON=docker.io/library/python:3.15-slim-trixie
ARG BASE=gcr.io/distroless/cc-debian13:latest

FROM ${PYTHON} AS launcher
# musl: a static program of 18 kB, where glibc makes 700.  Without a version, since Debian keeps no older versions.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends gcc musl-tools \
 && rm -rf /var/lib/apt/lists/*
COPY image/launcher.c /
# With musl's copyright, as its licence asks for.
RUN mkdir -p /tree/usr/share/doc/musl \
 && cp /usr/share/doc/musl-dev/copyright /tree/usr/share/doc/musl/ \
 && musl-gcc -static -Os -s -Wall -Wextra -Werror -o /tree/livenessprobe /launcher.c

FROM ${PYTHON} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONHASHSEED=0
WORKDIR /src
COPY requirements.lock requirements-build.lock ./
COPY image/mend_grpc.py image/
RUN python3 -m pip install --require-hashes --no-deps --only-binary=:all: --target=/packages -r requirements.lock \
 && python3 image/mend_grpc.py /packages \
 && python3 -m pip install --require-hashes --no-deps --only-binary=:all: --target=/builder -r requirements-build.lock
COPY pyproject.toml README.md LICENSE ./
COPY livenessprobe livenessprobe
COPY image/assemble.py image/
# pip does not install into a folder what that folder already has, so the package gets a folder of its own.
# no_debug_ranges: compiled without columns, which only mark a part of a line in a traceback.
RUN PYTHONPATH=/builder python3 -m pip install --no-deps --no-build-isolation --target=/package . \
 && python3 -X no_debug_ranges image/assemble.py /tree /packages /package

FROM ${BASE}
COPY --from=launcher /tree /
COPY --from=build /tree/python /
COPY --from=build /tree/app /
ARG BASE
ARG VERSION=unknown
ARG REVISION=unknown
ARG SOURCE=unknown
LABEL org.opencontainers.image.title="livenessprobe" \
      org.opencontainers.image.description="A drop-in replacement for the Kubernetes CSI sidecar livenessprobe" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.base.name="${BASE}"
# On a node with 64 CPUs gRPC has 19 threads, and glibc would make an arena for each: 1.6 GB of address space instead of 0.3.
# Two arenas are as fast.  glibc reads the variable only at the start.
ENV MALLOC_ARENA_MAX=2
WORKDIR /
ENTRYPOINT ["/livenessprobe"]
