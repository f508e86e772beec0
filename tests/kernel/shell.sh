#!/bin/sh
# Runs each line that comes by the port, a script in base64, and answers with its status and all that it said.
exec 3<>"$(echo /dev/vport*p1)"
while :; do
    # Nobody is there yet.
    read -r line <&3 || { sleep 0.2; continue; }
    echo "$line" | base64 -d >/run/shell.script
    sh -e /run/shell.script >/run/shell.output 2>&1 </dev/null
    echo "$? $(base64 -w 0 /run/shell.output)" >&3
done
