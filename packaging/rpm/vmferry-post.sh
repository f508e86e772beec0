# Called with 1 when the package is installed, with more when it is upgraded.
if [ "$1" -eq 1 ]; then
    systemctl --no-reload preset vmferry-coordinator.service >/dev/null 2>&1 || :
fi
