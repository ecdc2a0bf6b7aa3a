//! A QEMU plugin that is told of each translated block and does nothing: what having any plugin costs, which no tap can go below.
//!
//! Built by `cargo xtask bench` with plain `rustc`: it is no part of the workspace.

use std::ffi::{c_char, c_int, c_void};

/// QEMU loads only plugins that say which version of its interface they were written for.
#[unsafe(no_mangle)]
pub static qemu_plugin_version: c_int = 4;

unsafe extern "C" {
    fn qemu_plugin_register_vcpu_tb_trans_cb(id: u64, callback: extern "C" fn(u64, *mut c_void));
}

extern "C" fn on_translation(_id: u64, _block: *mut c_void) {}

/// # Safety
/// Called by QEMU.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qemu_plugin_install(id: u64, _: *const c_void, _: c_int, _: *const *const c_char) -> c_int {
    // SAFETY: registering a callback of the right type during install is what the interface is for.
    unsafe { qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation) };
    0
}
