# The image of all processes: `desk gateway`, `desk service`, `desk console`, or `desk serve`.

ARG PYTHON=3.13.5-slim-bookworm

FROM python:${PYTHON} AS build
WORKDIR /src
COPY constraints.txt ./
RUN python -m venv /opt/desk \
 && /opt/desk/bin/pip install --no-cache-dir --require-hashes --requirement constraints.txt
COPY pyproject.toml README.md LICENSE ./
COPY callback ./callback
COPY client ./client
COPY command ./command
COPY console ./console
COPY display ./display
COPY gateway ./gateway
COPY journal ./journal
COPY metrics ./metrics
COPY service ./service
COPY simulator ./simulator
COPY storage ./storage
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels ./client . \
 && /opt/desk/bin/pip install --no-cache-dir --no-deps /wheels/*.whl \
 && /opt/desk/bin/pip check

FROM python:${PYTHON}
LABEL org.opencontainers.image.title="Desk Sessions" \
      org.opencontainers.image.licenses="Apache-2.0"
# A fixed uid, so that files on a volume and mounted secrets keep their owner across images.
RUN groupadd --gid 10001 desk \
 && useradd --uid 10001 --gid desk --no-create-home --home-dir /data --shell /usr/sbin/nologin desk \
 && install --directory --owner=desk --group=desk --mode=0700 /data
COPY --from=build /opt/desk /opt/desk
ENV PATH=/opt/desk/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    DESK_DATA_DIR=/data \
    DESK_LOG_FORMAT=json
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8080 8081 50051 9464
STOPSIGNAL SIGTERM
# No HEALTHCHECK here: what is healthy depends on the command, so docker-compose.yml has one for each:
# `desk health gateway`, `desk health service`, `desk health console`.
ENTRYPOINT ["desk"]
CMD ["--help"]
