//! The `lava` command against real micro-VMs: real QEMU, real Debian, the shipped scenarios.

mod attack;
mod baseline;
mod benign;
mod cage;
mod common;
mod control;
mod disk_changes;
mod dump;
mod egress;
mod files;
mod ground_truth;
mod kernel;
mod kill;
mod known_count;
mod memory;
mod network;
mod processes;
mod profiles;
mod refuse;
mod remediate;
mod screen;
mod snapshot;
mod trouble;
mod truth;
mod watcher;
mod zero_loss;
