"""Tests on a real Kubernetes cluster: `make test-cluster KUBECONFIG=…` (deploy/kubernetes/README.md)."""
