#!/usr/bin/env python3
"""seed.py SECRETS GUEST: what an operator would set up in a new cloud, as far as it is missing.

SECRETS holds the tenants' passwords (user-demo, user-other), GUEST the test guest's vmlinuz, initrd.gz and root.qcow2.
The environment holds the administrator's credentials.

Made: the image mhv-guest; the flavors m1.tiny and m1.tiny.checkpoint; the external network "public"; and for each of the
projects demo and other a user, quotas, a network net1 behind a router, and a security group that lets everything in.
"""

import pathlib
import sys

import openstack

TENANTS = {"demo": "10.77.0.0/24", "other": "10.78.0.0/24"}


def ensure_image(cloud, name, path, container, disk, **properties):
    found = cloud.image.find_image(name)
    return found or cloud.image.create_image(
        name=name,
        filename=str(path),
        container_format=container,
        disk_format=disk,
        visibility="public",
        validate_checksum=False,
        **properties,
    )


def ensure_images(cloud, guest):
    kernel = ensure_image(cloud, "mhv-guest-kernel", guest / "vmlinuz", "aki", "aki")
    ramdisk = ensure_image(cloud, "mhv-guest-ramdisk", guest / "initrd.gz", "ari", "ari")
    ensure_image(
        cloud,
        "mhv-guest",
        guest / "root.qcow2",
        "bare",
        "qcow2",
        kernel_id=kernel.id,
        ramdisk_id=ramdisk.id,
        os_command_line="console=ttyS0 quiet no_timer_check",
        hw_video_model="none",
    )


def ensure_flavor(cloud, name, **extra_specs):
    flavor = cloud.compute.find_flavor(name) or cloud.compute.create_flavor(name=name, ram=192, vcpus=1, disk=1)
    if extra_specs:
        cloud.compute.create_flavor_extra_specs(flavor, extra_specs)


def ensure_flavors(cloud):
    ensure_flavor(cloud, "m1.tiny")
    ensure_flavor(cloud, "m1.tiny.checkpoint", **{"mhv:services": "checkpoint", "trait:CUSTOM_MHV_CHECKPOINT": "required"})


def ensure_public_network(cloud):
    found = cloud.network.find_network("public")
    if found:
        return found
    network = cloud.network.create_network(
        name="public", is_router_external=True, provider_network_type="flat", provider_physical_network="public"
    )
    cloud.network.create_subnet(
        name="public",
        network_id=network.id,
        ip_version=4,
        cidr="172.24.4.0/24",
        gateway_ip="172.24.4.1",
        is_dhcp_enabled=False,
        allocation_pools=[{"start": "172.24.4.10", "end": "172.24.4.200"}],
    )
    return network


def ensure_tenant(cloud, name, password):
    identity = cloud.identity
    project = identity.find_project(name) or identity.create_project(name=name, domain_id="default")
    user = identity.find_user(name) or identity.create_user(name=name, password=password, domain_id="default")
    for role in ("member", "reader"):
        identity.assign_project_role_to_user(project, user, identity.find_role(role))
    cloud.set_compute_quotas(name, instances=10, cores=10, ram=4096)
    return project


def ensure_tenant_network(cloud, project, cidr, public):
    network = cloud.network.find_network("net1", project_id=project.id)
    if not network:
        network = cloud.network.create_network(name="net1", project_id=project.id)
    subnet = cloud.network.find_subnet("subnet1", project_id=project.id, network_id=network.id)
    if not subnet:
        subnet = cloud.network.create_subnet(name="subnet1", project_id=project.id, network_id=network.id, ip_version=4, cidr=cidr)
    if not cloud.network.find_router("router1", project_id=project.id):
        router = cloud.network.create_router(name="router1", project_id=project.id, external_gateway_info={"network_id": public.id})
        cloud.network.add_interface_to_router(router, subnet_id=subnet.id)


def ensure_open_security_group(cloud, project):
    group = next(cloud.network.security_groups(project_id=project.id, name="default"))
    rules = cloud.network.security_group_rules(security_group_id=group.id, direction="ingress")
    for protocol in {"icmp", "tcp"} - {rule.protocol for rule in rules}:
        cloud.network.create_security_group_rule(
            security_group_id=group.id, project_id=project.id, direction="ingress", protocol=protocol, ethertype="IPv4"
        )


def main(secrets, guest):
    cloud = openstack.connect()
    ensure_images(cloud, pathlib.Path(guest))
    ensure_flavors(cloud)
    public = ensure_public_network(cloud)
    for name, cidr in TENANTS.items():
        project = ensure_tenant(cloud, name, (pathlib.Path(secrets) / f"user-{name}").read_text())
        ensure_tenant_network(cloud, project, cidr, public)
        ensure_open_security_group(cloud, project)


if __name__ == "__main__":
    main(*sys.argv[1:])
