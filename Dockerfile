# The relay and the operators' tools, built from this source tree. The image has no key: `prepare`
# makes the secrets in a volume at the first start.

FROM python:3.13.9-slim-trixie AS build

WORKDIR /src
COPY pyproject.toml README.md LICENSE CHANGELOG.md requirements/image.txt ./
COPY clients/python/sealbus clients/python/sealbus
COPY broker/sealbus_broker broker/sealbus_broker
# The dependencies have the versions and the hashes of `make lock`. Sealbus itself is installed from
# a wheel, so the image has the same files as a user's installation.
RUN python -m venv /opt/sealbus \
    && /opt/sealbus/bin/pip install --no-cache-dir --require-hashes --requirement image.txt \
    && /opt/sealbus/bin/pip wheel --no-cache-dir --no-deps --wheel-dir /wheel . \
    && /opt/sealbus/bin/pip install --no-cache-dir --no-deps /wheel/sealbus-*.whl

FROM python:3.13.9-slim-trixie

# A number, so that Kubernetes (`runAsNonRoot`) can see that it is not root.
ARG UID=10001
# The owner of these folders becomes the owner of the empty volumes that are mounted on them:
#   /bus/.sealbus  the relay's seeds. Only `prepare` and `relay` mount it.
#   /nats-config   nats.conf, and the certificates of `nats` with their key. `nats` reads them.
#   /data          JetStream's store. `nats` uses it, and `prepare` mounts it to set its owner.
RUN install -d -m 0755 /bus \
    && install -d -m 0700 -o ${UID} -g ${UID} /bus/.sealbus /data \
    && install -d -m 0755 -o ${UID} -g ${UID} /nats-config

COPY --from=build /opt/sealbus /opt/sealbus
ENV PATH=/opt/sealbus/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1

WORKDIR /bus
USER ${UID}:${UID}
ENTRYPOINT ["sealbus"]
CMD ["--help"]
