#!/bin/sh
# Prints the Secrets of this overlay with random values, made anew at every call: sh secrets.sh | kubectl create -f -
set -eu

random() { od -An -N 24 -tx1 /dev/urandom | tr -d ' \n'; }

postgres=$(random)
joining=$(random)
cat <<SECRETS
apiVersion: v1
kind: Secret
metadata: {name: postgres, namespace: scaleodm}
stringData:
  POSTGRES_PASSWORD: "$postgres"
---
apiVersion: v1
kind: Secret
metadata: {name: scaleodm-s3, namespace: scaleodm}
stringData:
  AWS_ACCESS_KEY_ID: scaleodm
  AWS_SECRET_ACCESS_KEY: "$(random)"
---
apiVersion: v1
kind: Secret
metadata: {name: scaleodm-router, namespace: scaleodm}
stringData:
  SCALEODM_ROUTER_DATABASE_URL: "postgresql://scaleodm:$postgres@postgres:5432/scaleodm"
  SCALEODM_ROUTER_SECRET_KEY: "$(random)"
  SCALEODM_ROUTER_ADMIN_TOKEN: "$(random)"
  SCALEODM_ROUTER_USER_TOKEN: "$(random)"
  SCALEODM_ROUTER_NODE_TOKEN: "$joining"
---
apiVersion: v1
kind: Secret
metadata: {name: scaleodm-node, namespace: scaleodm}
stringData:
  SCALEODM_NODE_JOIN_TOKEN: "$joining"
SECRETS
