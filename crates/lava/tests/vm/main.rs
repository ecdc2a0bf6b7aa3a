//! The `lava` command against real micro-VMs: real QEMU, real Debian, the shipped scenarios.

mod attack;
mod benign;
mod common;
mod ground_truth;
mod trouble;
mod watcher;
