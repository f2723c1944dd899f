# shellcheck shell=bash
# DevStack's plugin: nova-mhv beside an ordinary DevStack, with the functions of lib/ that the small cloud uses as well.
#
#   [[local|localrc]]
#   enable_plugin nova-mhv https://example.org/nova-mhv
#
# pre-install  Debian packages        post-config  users, folders, configuration, identities; the engine starts, for
# install      engine, Python, shim                nova-compute asks it what this host can do
# extra        agent, API, flavors    unstack, clean

for mhv_part in common daemon packages engine mhv; do
    # shellcheck source=/dev/null
    . "$NOVA_MHV_DIR/devstack/lib/$mhv_part"
done
unset mhv_part

MHV_UWSGI_CONF=$MHV_ETC/mhv-api-uwsgi.ini
MHV_BIN_DIR=$(get_python_exec_prefix)

# The small cloud's daemons are DevStack's processes here.
daemon_start() {
    run_process "$1" "${*:3}" root root
}

daemon_start_as() {
    run_process "$2" "${*:4}" "$1" "$1"
}

daemon_wait() {
    wait_for "${2:-$SERVICE_TIMEOUT}" systemctl is-active "devstack@$1" || die $LINENO "$1 did not start: journalctl -u devstack@$1"
}

# A function of lib/ that needs to be root.
mhv_as_root() {
    sudo env "MHV_STATE=$MHV_STATE" "$NOVA_MHV_DIR/devstack/lib/run" "$@"
}

function preinstall_mhv {
    # shellcheck disable=SC2046
    install_package $(bindep_packages build; bindep_packages build backports; bindep_packages runtime; bindep_packages runtime backports)
}

function install_mhv {
    sudo install -d -o "$STACK_USER" "$MHV_STATE"
    engine_build
    MHV_ENGINE_MODULE=$(engine_module)
    export MHV_ENGINE_MODULE
    setup_install "$NOVA_MHV_DIR"
    # Nova is an editable checkout: the driver's shim has to be inside it.
    ln -sfn "$NOVA_MHV_DIR/nova_mhv/shim" "$NOVA_DIR/nova/virt/mhv"
}

function configure_mhv {
    mhv_as_root engine_prepare
    add_user_to_group "$STACK_USER" nova-mhv
    iniset "$NOVA_CONF" DEFAULT compute_driver mhv.MHVDriver
    create_service_user nova-mhv admin
    sudo install -d -o "$STACK_USER" -g nova-mhv -m 0750 "$MHV_ETC"
    configure_mhv_agent
    if is_service_enabled mhv-api; then
        configure_mhv_api
    fi
    engine_start
}

function configure_mhv_agent {
    local conf=$MHV_ETC/mhv-agent.conf
    iniset "$conf" DEFAULT host "$(hostname)"
    iniset "$conf" oslo_messaging_notifications driver messagingv2
    iniset_rpc_backend nova-mhv "$conf" DEFAULT
    configure_keystoneauth "$conf" nova-mhv glance
    sudo install -d -o nova-mhv -g nova-mhv -m 0700 /var/lib/nova-mhv/export
}

function configure_mhv_api {
    local conf=$MHV_ETC/mhv-api.conf url=$SERVICE_PROTOCOL://$SERVICE_HOST/hypervisor-service/v1
    iniset_rpc_backend nova-mhv "$conf" DEFAULT
    configure_keystoneauth "$conf" nova-mhv nova
    configure_keystone_authtoken_middleware "$conf" nova-mhv
    write_uwsgi_config "$MHV_UWSGI_CONF" nova_mhv.api.wsgi:application /hypervisor-service "" mhv-api
    get_or_create_service nova-mhv hypervisor-service "Hypervisor services"
    get_or_create_endpoint hypervisor-service "$REGION_NAME" "$url"
}

function start_mhv {
    daemon_start_as nova-mhv mhv-agent true "$MHV_BIN_DIR/mhv-agent" --config-file "$MHV_ETC/mhv-agent.conf"
    run_process mhv-api "$(command -v uwsgi) --procname-prefix mhv-api --ini $MHV_UWSGI_CONF"
}

function create_mhv_flavors {
    if is_service_enabled n-api && ! openstack --os-cloud devstack-admin flavor show m1.tiny.checkpoint >/dev/null 2>&1; then
        openstack --os-cloud devstack-admin flavor create m1.tiny.checkpoint --ram 512 --disk 1 --vcpus 1 \
            --property mhv:services=checkpoint --property trait:CUSTOM_MHV_CHECKPOINT=required
    fi
}

function stop_mhv {
    local service
    for service in mhv-api mhv-agent mhvd mhv-broker; do
        stop_process "$service"
    done
}

function cleanup_mhv {
    rm -f "$NOVA_DIR/nova/virt/mhv"
    sudo rm -rf "$MHV_STATE" "$MHV_ETC" /var/lib/nova-mhv /run/nova-mhv
}

if is_service_enabled mhvd; then
    case "$1 ${2:-}" in
    "stack pre-install") echo_summary "Installing nova-mhv's packages" && preinstall_mhv ;;
    "stack install") echo_summary "Installing nova-mhv" && install_mhv ;;
    "stack post-config") echo_summary "Configuring nova-mhv" && configure_mhv ;;
    "stack extra") echo_summary "Starting nova-mhv" && start_mhv && create_mhv_flavors ;;
    "unstack ") stop_mhv ;;
    "clean ") cleanup_mhv ;;
    esac
fi
