# Called with 0 when the package is removed, with more when it is upgraded. A failure keeps the package.
if [ "$1" -eq 0 ]; then
    if ! open=$(vmferry-agent --open-migrations 2>&1); then
        echo "vmferry-agent: it cannot be told whether migrations are open on this host:" >&2
        echo "$open" >&2
        exit 1
    fi
    if [ -n "$open" ]; then
        echo "vmferry-agent: it is needed by migrations that have not come to their end on this host:" >&2
        echo "$open" | sed 's/^/  /' >&2
        echo "vmferry-agent: wait for them (vmferry watch ID), or end them: vmferry migrations resolve; vmferry doctor --fix" >&2
        exit 1
    fi
    systemctl --no-reload disable --now vmferry-agent.service >/dev/null 2>&1 || :
    # Nothing is carried, so that what would carry tunnels is only waiting for its end.
    systemctl kill vmferry-agent.service >/dev/null 2>&1 || :
fi
