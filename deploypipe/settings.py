"""Settings, grouped. A clone runs with no variable set; every value that may differ comes through `env`."""

from __future__ import annotations

import secrets
from datetime import timedelta
from pathlib import Path
from typing import Any

from deploypipe import env

# --- Where we are -----------------------------------------------------------------------------------------------------

BASE_DIR = Path(__file__).resolve().parent.parent
VAR_DIR = env.folder("VAR", BASE_DIR / "var")
"""Everything that a run writes: database, logs, sockets, secrets, model server state."""

# --- Web --------------------------------------------------------------------------------------------------------------

DEBUG = env.flag("DEBUG", False)
SECRET_KEY = env.kept_secret("SECRET_KEY", VAR_DIR / "secrets" / "django", secrets.token_urlsafe(50))
ALLOWED_HOSTS = env.words("ALLOWED_HOSTS", "127.0.0.1,localhost,[::1]")
CSRF_TRUSTED_ORIGINS = env.words("CSRF_TRUSTED_ORIGINS", "")
WEB_HOST = env.text("WEB_HOST", "127.0.0.1")
WEB_PORT = env.port("WEB_PORT", 8000)

HTTPS = env.flag("HTTPS", False)
"""True where browsers reach us by https (directly or through a proxy that sets X-Forwarded-Proto)."""
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if HTTPS else None
SECURE_SSL_REDIRECT = HTTPS
SECURE_REDIRECT_EXEMPT = [r"^healthz$", r"^readyz$", r"^metrics$"]
SECURE_HSTS_SECONDS = 31_536_000 if HTTPS else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = HTTPS
SECURE_HSTS_PRELOAD = HTTPS
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = HTTPS
SESSION_COOKIE_NAME = "deploypipe_session"
CSRF_COOKIE_NAME = "deploypipe_csrf"
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"

ROOT_URLCONF = "deploypipe.urls"
ASGI_APPLICATION = "deploypipe.asgi.application"
WSGI_APPLICATION = "deploypipe.wsgi.application"
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "overview"
LOGOUT_REDIRECT_URL = "login"

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "channels",
    "django_htmx",
    "rest_framework",
    "deploypipe.core",
    "deploypipe.metrics",
    "registry",
    "rollouts",
    "abtests",
    "deploypipe",
    *env.words("APPS", ""),
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "servestatic.middleware.ServeStaticMiddleware",
    "deploypipe.core.web.ContentSecurityPolicy",
    "deploypipe.core.web.NoZeroCharacters",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "deploypipe.core.web.DomainErrors",
]

TEMPLATES: list[dict[str, Any]] = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "deploypipe.core.web.product",
            ],
        },
    },
]

STATIC_URL = "static/"
STATIC_ROOT = VAR_DIR / "static"
STATICFILES_DIRS = [BASE_DIR / "static"]
SERVESTATIC_USE_FINDERS = True
STATIC_ROOT.mkdir(parents=True, exist_ok=True)

LANGUAGE_CODE = "en-gb"
USE_I18N = False
USE_TZ = True
TIME_ZONE = "UTC"

# --- Database ---------------------------------------------------------------------------------------------------------

_SQLITE: dict[str, Any] = {
    "ENGINE": "django.db.backends.sqlite3",
    "NAME": VAR_DIR / "deploypipe.sqlite3",
    "OPTIONS": {
        # IMMEDIATE: a transaction that will write takes its lock at the start, so it waits instead of failing.
        "transaction_mode": "IMMEDIATE",
        "timeout": 30,
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
    },
    # A file, not memory: tests that use threads and processes see the same database.
    "TEST": {"NAME": VAR_DIR / "test.sqlite3"},
}
DATABASES = {"default": env.postgresql("DATABASE_URL") or _SQLITE}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# --- People and programs ----------------------------------------------------------------------------------------------

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]

DEMO = env.flag("DEMO", False)
"""Show the demo accounts on the sign-in page. Set by `make run`, never by a production start."""

DEMO_PASSWORD = "deploypipe-demo"  # noqa: S105 -- shown on the sign-in page of the demo, where it is meant to be known
DEMO_TOKENS = VAR_DIR / "secrets" / "demo-tokens.json"

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "deploypipe.core.tokens.TokenAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["deploypipe.core.body.Json"],
    "DEFAULT_PAGINATION_CLASS": "deploypipe.core.api.Pages",
    "PAGE_SIZE": 50,
    "EXCEPTION_HANDLER": "deploypipe.core.api.exception_handler",
    "UNAUTHENTICATED_USER": "django.contrib.auth.models.AnonymousUser",
}

# --- Tasks and live updates -------------------------------------------------------------------------------------------

CELERY_BROKER_URL = env.secret("BROKER_URL", "memory://localhost/")
EMBEDDED = CELERY_BROKER_URL.startswith("memory:")
"""One process is everything: web, worker and beat. With a broker URL they are processes of their own."""
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_SERIALIZER = CELERY_RESULT_SERIALIZER = "json"
CELERY_TASK_ACKS_LATE = True
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_TIMEZONE = TIME_ZONE
WORKER_THREADS = env.number("WORKER_THREADS", 8, least=4, most=256)
EXAMINATIONS_AT_ONCE = env.number("EXAMINATIONS_AT_ONCE", 2, least=1, most=64)
"""More wait. They take minutes and measure speed: many at once hold every worker and spoil each other's figures."""
# Rows say what is due; beat only asks. A message not taken within its second is stale: the next one asks again.
_EVERY_SECOND = {"schedule": timedelta(seconds=1), "options": {"expires": 2}}
CELERY_BEAT_SCHEDULE = {
    "records": {"task": "rollouts.tasks.read_records", **_EVERY_SECOND},
    "qa": {"task": "registry.tasks.qa_due", **_EVERY_SECOND},
    "health": {"task": "rollouts.tasks.health_due", **_EVERY_SECOND},
    "servers": {"task": "rollouts.tasks.servers_due", **_EVERY_SECOND},
    "rollouts": {"task": "rollouts.tasks.rollouts_due", **_EVERY_SECOND},
    "old windows": {"task": "rollouts.tasks.forget_windows", "schedule": timedelta(hours=1)},
}

REDIS_URL = env.secret("REDIS_URL")
CHANNEL_LAYERS: dict[str, dict[str, Any]] = {
    "default": (
        {"BACKEND": "channels_redis.core.RedisChannelLayer", "CONFIG": {"hosts": [REDIS_URL]}}
        if REDIS_URL
        else {"BACKEND": "channels.layers.InMemoryChannelLayer"}
    )
}

# --- Model servers and traffic ----------------------------------------------------------------------------------------

ENGINE_API_KEY = env.kept_secret("ENGINE_API_KEY", VAR_DIR / "secrets" / "engine", f"dpk-{secrets.token_urlsafe(24)}")
"""The key that model servers ask of their callers; handed to them by environment variable, never on a command line."""

QA_FILES_DIR = env.path("QA_FILES", VAR_DIR / "qa")
"""Where the files lie that policies name: a team's own prompts and held-out texts."""

TARGETS: dict[str, dict[str, Any]] = {
    "local": {"BACKEND": "rollouts.targets.local.LocalTarget", "OPTIONS": {"directory": VAR_DIR / "servers"}},
}

GATEWAY_HOST = env.text("GATEWAY_HOST", "127.0.0.1")
GATEWAY_PORT = env.port("GATEWAY_PORT", 8080)
GATEWAY_ADMIN_PORT = env.port("GATEWAY_ADMIN_PORT", 9901)
GATEWAY_DIR = VAR_DIR / "gateway"
ROUTERS: dict[str, dict[str, Any]] = {
    "envoy": {
        "BACKEND": "rollouts.traffic.envoy.EnvoyRouter",
        "OPTIONS": {"directory": GATEWAY_DIR, "admin": f"127.0.0.1:{GATEWAY_ADMIN_PORT}"},
    },
}
GATEWAY_RECORDS = GATEWAY_DIR / "access.log"
GATEWAY_RECORDS_LIMIT_MIB = env.number("GATEWAY_RECORDS_LIMIT_MIB", 64, least=1, most=10_000)

SESSION_SECONDS = env.seconds("SESSION_SECONDS", 60.0, least=1, most=3600)
"""A session is observed for so long after its first request began; then what came of it counts, once."""
WINDOWS_DAYS = env.number("WINDOWS_DAYS", 30, least=1, most=3650)
"""What was measured while no test was under way stays so long; what tests were decided from stays for good."""
SESSIONS_REMEMBERED = env.number("SESSIONS_REMEMBERED", 500_000, least=1_000, most=100_000_000)
"""Of one test, about, at most: where there are more, a sample counts."""

# --- Rollouts ---------------------------------------------------------------------------------------------------------

HEALTH_INTERVAL = env.seconds("HEALTH_INTERVAL", 2.0, least=0.2)
HEALTH_DEADLINE = env.seconds("HEALTH_DEADLINE", 5.0, least=0.1)
"""Seconds in which a one-token generation must end."""
HEALTH_FAILURES = env.number("HEALTH_FAILURES", 2, least=1, most=100)
"""Consecutive failed checks that make a server unhealthy; an ended process is unhealthy at once."""
READY_TIMEOUT = env.seconds("READY_TIMEOUT", 600.0, least=1)
DRAIN_LIMIT = env.seconds("DRAIN_LIMIT", 60.0)
"""Longest time that streams of a version without traffic may go on before its server is ended."""
ROLLBACK_WINDOW = env.seconds("ROLLBACK_WINDOW", 600.0)
"""Seconds for which the version that was replaced stays warm."""
LEASE_SECONDS = env.seconds("LEASE_SECONDS", 15.0, least=1)

# --- Logs -------------------------------------------------------------------------------------------------------------

LOG_LEVEL = env.one_of("LOG_LEVEL", "INFO", ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"])
LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "plain"}},
    "root": {"handlers": ["stderr"], "level": LOG_LEVEL},
    "loggers": {
        "celery": {"level": "WARNING"},
        "httpx": {"level": "WARNING"},
        "uvicorn": {"level": "WARNING"},
        "daphne": {"level": "WARNING"},
    },
}
