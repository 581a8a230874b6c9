"""Credentials for the image service, and where its catalogue is asked.

The only module that imports keystoneauth1 (and, for clouds.yaml, openstacksdk); the Glance driver
imports it when the service is first asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from keystoneauth1 import exceptions, loading, noauth, session

from basecache import errors
from basecache.sources.glance import GlanceSettings

_WITHOUT_KEYSTONE = frozenset({"none", "noauth"})


@dataclass(frozen=True, slots=True)
class Access:
    """A keystoneauth session and which endpoint of the catalogue is wanted."""

    session: Any
    endpoint: str | None
    region_name: str | None
    interfaces: tuple[str, ...]

    def find_endpoint(self, service_type: str) -> str | None:
        """The endpoint that is configured, or that the catalogue gives; None when it has none."""
        if self.endpoint:
            return self.endpoint
        found: str | None = self.session.get_endpoint(
            service_type=service_type,
            interface=list(self.interfaces),
            region_name=self.region_name,
            skip_discovery=True,
        )
        return found

    @contextmanager
    def translated(self, source: str) -> Iterator[None]:
        """Turn keystoneauth's errors into ours."""
        try:
            yield
        except exceptions.Unauthorized as error:
            raise errors.SourceRefused(
                source, f"Keystone refuses the credentials: check [glance] ({error.message})"
            ) from error
        except (exceptions.HttpServerError, exceptions.TooManyRequests) as error:
            raise errors.SourceUnreachable(source, f"Keystone: {error}") from error
        except exceptions.SSLError as error:
            raise errors.SourceRefused(source, f"TLS: {error}") from error
        except (exceptions.ConnectionError, exceptions.DiscoveryFailure) as error:
            raise errors.SourceUnreachable(source, str(error)) from error
        except exceptions.ClientException as error:
            raise errors.SourceRefused(source, str(error)) from error


def open_access(settings: GlanceSettings) -> Access:
    """Load the credentials; nothing is sent yet. ConfigError when they are not complete."""
    if settings.cloud:
        return _open_cloud(settings, settings.cloud)
    opened = session.Session(
        auth=_load_auth(settings),
        verify=not settings.insecure and (str(settings.cafile) if settings.cafile else True),
        cert=_client_certificate(settings),
        timeout=settings.timeout_seconds,
    )
    return Access(opened, None, settings.region_name, settings.interfaces)


def _client_certificate(settings: GlanceSettings) -> str | tuple[str, str] | None:
    if settings.certfile is None:
        return None
    if settings.keyfile is None:
        return str(settings.certfile)
    return str(settings.certfile), str(settings.keyfile)


def _open_cloud(settings: GlanceSettings, cloud: str) -> Access:
    import openstack.config  # noqa: PLC0415
    import openstack.exceptions  # noqa: PLC0415

    files = [str(settings.clouds_file)] if settings.clouds_file else None
    try:
        found = openstack.config.OpenStackConfig(config_files=files)
        region = found.get_one(cloud, region_name=settings.region_name)
        opened = region.get_session()
    except openstack.exceptions.ConfigException as error:
        raise errors.ConfigError(f"[glance] cloud = {cloud}: {error}") from error
    interface = region.get_interface("image") or "public"
    return Access(
        opened,
        region.get_endpoint("image"),
        region.get_region_name("image"),
        (interface,) if isinstance(interface, str) else tuple(interface),
    )


def _load_auth(settings: GlanceSettings) -> Any:
    given = {key: value for key, value in (settings.auth or {}).items() if value is not None}
    kind = given.pop("auth_type", None) or ("password" if given else "none")
    if kind in _WITHOUT_KEYSTONE:
        if not settings.api_servers:
            raise errors.ConfigError(
                "[glance] without credentials (auth_type, auth_url ... or cloud) needs api_servers"
            )
        return noauth.NoAuth()
    try:
        loader: Any = loading.get_plugin_loader(kind)
        known = {option.dest for option in loader.get_options()}
        if given.keys() - known:
            unknown = ", ".join(sorted(given.keys() - known))
            raise errors.ConfigError(f"[glance] {unknown}: auth_type {kind} has no such option")
        return loader.load_from_options(**given)
    except exceptions.AuthPluginException as error:
        raise errors.ConfigError(f"[glance] auth_type = {kind}: {error}") from error
