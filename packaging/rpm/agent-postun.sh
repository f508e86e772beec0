# Called with 0 when the package was removed, with more when it was upgraded: guests that move then go on moving.
systemctl daemon-reload >/dev/null 2>&1 || :
if [ "$1" -ge 1 ]; then
    systemctl try-restart vmferry-agent.service >/dev/null 2>&1 || :
else
    rm -rf /run/vmferry
fi
