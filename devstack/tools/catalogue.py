#!/usr/bin/env python3
"""catalogue.py SECRETS "NAME TYPE URL"...: makes the service users, services and endpoints that are missing.

SECRETS is a folder with each user's password in a file service-NAME. The environment holds the administrator's credentials.
"""

import pathlib
import sys

import openstack


def ensure_user(identity, name, password, project, roles):
    user = identity.find_user(name) or identity.create_user(name=name, password=password, domain_id="default")
    for role in roles:
        identity.assign_project_role_to_user(project, user, role)


def ensure_endpoints(identity, name, kind, url):
    service = identity.find_service(name) or identity.create_service(name=name, type=kind)
    present = {endpoint.interface for endpoint in identity.endpoints(service_id=service.id)}
    for interface in {"public", "internal", "admin"} - present:
        identity.create_endpoint(service_id=service.id, interface=interface, url=url, region_id="RegionOne")


def main(secrets, *services):
    identity = openstack.connect().identity
    project = identity.find_project("service") or identity.create_project(name="service", domain_id="default")
    roles = [role for role in (identity.find_role(name) for name in ("admin", "service")) if role]
    for line in services:
        name, kind, url = line.split()
        ensure_user(identity, name, (pathlib.Path(secrets) / f"service-{name}").read_text(), project, roles)
        ensure_endpoints(identity, name, kind, url)


if __name__ == "__main__":
    main(*sys.argv[1:])
