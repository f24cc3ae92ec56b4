# The pipeline. It compiles its kernels while it is built, so that a container starts in seconds: build it on the kind
# of CPU that runs it, or the first start compiles them again.
FROM python:3.12.12-slim-bookworm

ENV PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1

# /state: recovery state. /provisioning: what Grafana reads, written by grafana/start.py.
RUN useradd --system --uid 10001 --create-home pairflow \
    && install -d -o pairflow -g pairflow /app /state /provisioning

WORKDIR /app
COPY requirements.lock .
RUN pip install --require-hashes --only-binary :all: -r requirements.lock

# Owned by the user: numba finds machine code beside a source file only where it could also write it.
COPY --chown=pairflow:pairflow kernels kernels
COPY --chown=pairflow:pairflow connectors connectors
COPY --chown=pairflow:pairflow flows flows
USER pairflow
RUN python -m flows

COPY --chown=pairflow:pairflow clickhouse clickhouse
COPY --chown=pairflow:pairflow grafana grafana

VOLUME /state
STOPSIGNAL SIGTERM
# The shell makes the recovery state once and then gives its place to the flow, which so gets the signals itself.
ENTRYPOINT ["/bin/sh", "-c", "test -e /state/part-0.sqlite3 || python -m bytewax.recovery /state 1; exec python -m bytewax.run flows.pairs -r /state -s 1 -b 0"]
