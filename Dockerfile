# The relay and the operators' tools, built from this source tree. Holds no key: what is secret is made in a volume at first start.

FROM python:3.13.9-slim-trixie AS build

WORKDIR /src
COPY pyproject.toml README.md LICENSE CHANGELOG.md ./
COPY clients/python/sealbus clients/python/sealbus
COPY broker/sealbus_broker broker/sealbus_broker
# A wheel first, and then that wheel: the image holds what a user would install, not a checkout.
RUN python -m venv /opt/sealbus \
    && /opt/sealbus/bin/pip wheel --no-cache-dir --no-deps --wheel-dir /wheel . \
    && wheel="$(echo /wheel/sealbus-*.whl)" \
    && /opt/sealbus/bin/pip install --no-cache-dir "${wheel}[broker]"

FROM python:3.13.9-slim-trixie

# A number, so that `runAsNonRoot` and the like can see that it is not root.
ARG UID=10001
# The owner of these folders becomes the owner of the empty volumes that are mounted on them:
#   /bus/.sealbus  the relay's seeds: mounted by `prepare` and `relay` alone
#   /nats-config   nats.conf, public keys only: read by `nats`
#   /data          JetStream's store: used by `nats`; mounted by `prepare` only to get its owner from here
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
