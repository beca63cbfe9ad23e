//! k8slan
