# Called with 0 when the package is removed, with more when it is upgraded.
if [ "$1" -eq 0 ]; then
    systemctl --no-reload disable --now vmferry-coordinator.service >/dev/null 2>&1 || :
fi
