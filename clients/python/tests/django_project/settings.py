"""A Django project whose records and user events go to bitacora."""

import os

# The lines that a project adds. MIDDLEWARE below begins with bitacora's.
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {
        "bitacora": {
            "class": "bitacora_logging.Handler",
            "path": os.environ["BITACORA_SOCKET"],  # default: /run/bitacora/log.sock
        },
    },
    "root": {"handlers": ["bitacora"], "level": "INFO"},
}

MIDDLEWARE = [
    "bitacora_logging.django.Middleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]

SECRET_KEY = "for tests only"
ALLOWED_HOSTS = ["testserver"]
ROOT_URLCONF = "urls"
USE_TZ = True
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
]
DATABASES = {
    "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ["PROJECT_DATABASE"]}
}
