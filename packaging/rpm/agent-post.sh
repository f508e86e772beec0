# Called with 1 when the package is installed, with more when it is upgraded.
if [ "$1" -eq 1 ]; then
    systemctl --no-reload preset vmferry-agent.service >/dev/null 2>&1 || :
fi
systemd-tmpfiles --create vmferry-agent.conf >/dev/null 2>&1 || :
/usr/lib/systemd/systemd-sysctl 60-vmferry.conf >/dev/null 2>&1 || :
if [ "$1" -gt 1 ] && ! problem=$(vmferry-agent --open-migrations 2>&1 >/dev/null); then
    echo "vmferry-agent: this version cannot take up the migrations of the version that was installed:" >&2
    echo "$problem" >&2
    echo "vmferry-agent: it will not start; install the later version again" >&2
fi
