# The gateway, and with `simulate` as the command its simulated upstream. Everything it keeps is in /data.
#
#   docker build -t responses-gateway .
#   docker run -p 127.0.0.1:8080:8080 -v responses:/data responses-gateway
#
# The ops address is inside the container only; with GATEWAY_OPS_LISTEN=:9464 and GATEWAY_OPS_TOKEN it can be published.
FROM python:3.11.14-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml README.md ./
COPY gateway gateway
RUN python -m venv /opt/gateway && /opt/gateway/bin/pip install --no-cache-dir .

FROM python:3.11.14-slim-bookworm
COPY --from=build /opt/gateway /opt/gateway
ENV PATH=/opt/gateway/bin:$PATH GATEWAY_LISTEN=:8080 GATEWAY_STORE=sqlite:////data/responses.db
RUN install -d -m 700 -o 10001 -g 10001 /data
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8080 9464
# Liveness, not readiness: a gateway that drains is well.
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s \
    CMD ["python", "-c", "from http.client import HTTPConnection as C; c = C('127.0.0.1', 9464, timeout=2); \
c.request('GET', '/healthz'); raise SystemExit(c.getresponse().status != 200)"]
# Drains for up to 25 s: `docker stop -t 30`, in Compose `stop_grace_period: 30s`.
STOPSIGNAL SIGTERM
ENTRYPOINT ["responses-gateway"]
CMD ["serve"]
