#!/bin/sh
# Makes the secrets of compose.yaml in deploy/secrets, or in the folder that is given, once: what is there is never replaced.
# Needs openssl. The folder is the owner's alone; the files in it may be read by whoever is shown them, for a container has another user.
set -eu
folder=${1:-$(dirname "$0")/secrets}
if [ -e "$folder" ]; then
  echo "make-secrets: $folder is there; remove it, and with it every session and the access to the data, to make others" >&2
  exit 1
fi
umask 077
draft=$folder.new
rm -rf "$draft"
mkdir -p "$draft"
cd "$draft"
secret() { openssl rand -hex 32; }

openssl genpkey -algorithm ed25519 -out signing_key.pem
secret > refresh_key
secret > id_key

client=$(secret)
echo "authorization { user: hubbub, password: \"$client\" }" > nats_auth.conf
echo "[\"nats://hubbub:$client@nats-1:4222\", \"nats://hubbub:$client@nats-2:4222\", \"nats://hubbub:$client@nats-3:4222\"]" \
  > HUBBUB_NATS__SERVERS

route=$(secret)
cat > nats_routes.conf <<END
authorization { user: route, password: "$route" }
routes: ["nats://route:$route@nats-1:6222", "nats://route:$route@nats-2:6222", "nats://route:$route@nats-3:6222"]
END

registry=$(secret)
echo "requirepass $registry" > valkey_auth.conf
echo "redis://:$registry@valkey:6379/0" > HUBBUB_REDIS__URL

chmod 444 -- *
cd - > /dev/null
mv "$draft" "$folder"
echo "secrets are in $folder"
