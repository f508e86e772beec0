# Called with 0 when the package was removed, with more when it was upgraded.
systemctl daemon-reload >/dev/null 2>&1 || :
if [ "$1" -ge 1 ]; then
    systemctl try-restart vmferry-coordinator.service >/dev/null 2>&1 || :
fi
