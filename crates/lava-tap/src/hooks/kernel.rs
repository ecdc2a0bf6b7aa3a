//! The kernel itself: modules.

use lava_event::Kind;
use lava_guest::memory::{Unreadable, Virtual};

use crate::introspect::Context;

/// Room for a module's name (`MODULE_NAME_LEN`, include/linux/moduleparam.h).
const NAME: usize = 56;

/// `do_init_module(mod)`: the module is linked into the kernel and about to run its init function.
pub fn module(context: &Context<'_>) -> Result<(), Unreadable> {
    let name = context.memory().read_cstr(context.argument(0)?.wrapping_add(context.layout().module.name), NAME);
    context.emit_with_registers(Kind::KernelModuleLoad { name: name.bytes.into(), path: None, address: 0, size: 0 })
}
