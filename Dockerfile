# One image for web, worker, reconciler and beat; which one it is, the command says.
FROM python:3.11-slim-bookworm AS build
WORKDIR /app
COPY requirements.txt .
RUN python -m venv /venv \
 && /venv/bin/pip install --no-cache-dir --require-hashes -r requirements.txt

FROM python:3.11-slim-bookworm
# Disks on a share belong to somebody; run with that user and group: --build-arg UID=…
ARG UID=10001
ARG GID=10001
RUN groupadd --gid ${GID} vdadmin \
 && useradd --uid ${UID} --gid ${GID} --no-create-home --shell /usr/sbin/nologin vdadmin \
 && install -d -o vdadmin -g vdadmin -m 0700 /state
WORKDIR /app
COPY --from=build /venv /venv
COPY manage.py ./
COPY vdadmin vdadmin
COPY disks disks
COPY templates templates
COPY static static
# No process writes into the image; without this each would compile what it imports anew, which
# is half of the time that a `disk` command takes to start.
RUN python -m compileall -q -j 0 manage.py vdadmin disks
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 OPENBLAS_NUM_THREADS=1 \
    VDADMIN_STATE_DIR=/state VDADMIN_STATIC_ROOT=/srv/static
# Collected at build time: every web server of one image then serves the same files.
RUN VDADMIN_SECRET_KEY=only-to-collect-static-files-000000000000000000000000000 \
    python manage.py collectstatic --no-input --verbosity 0
USER vdadmin
EXPOSE 8000
CMD ["gunicorn", "vdadmin.wsgi", "--bind=0.0.0.0:8000", "--worker-class=vdadmin.web.BoundedThreads", \
     "--workers=2", "--threads=8", "--timeout=60", "--no-control-socket"]
