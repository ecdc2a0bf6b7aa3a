//! Task switches: which task runs on which vCPU.

use lava_guest::memory::Unreadable;

use crate::introspect::Context;

/// `__switch_to(prev_p, next_p)` (arch/x86/kernel/process_64.c): `next_p` runs on this vCPU from here on.
pub fn switch(context: &Context<'_>) -> Result<(), Unreadable> {
    context.tap.switched(context.vcpu, context.argument(0)?);
    crate::kill::asked(context);
    super::kernel::switched(context)
}
