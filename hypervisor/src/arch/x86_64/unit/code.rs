//! Guest code: assembly in the hypervisor's image, copied to where the guest runs it.

/// `guest_code!(name, "...", "...")` is a function `name() -> &'static [u8]` with the assembled bytes of the fragment (Intel
/// syntax, 64-bit unless it says `.code16` or `.code32`). It must not depend on where it lies: jumps within the fragment
/// and alignment up to 64 are fine, an address of the fragment is `label - guest_NAME` plus where it was copied to.
macro_rules! guest_code {
    ($name:ident, $($line:literal),+ $(,)?) => {
        core::arch::global_asm!(
            ".pushsection .rodata.guest, \"a\"",
            // What the fragment aligns, it aligns in the section: at least as much here, so that the offsets stay.
            ".balign 64",
            // The function may end up in another object file.
            concat!(".globl guest_", stringify!($name)),
            concat!(".globl guest_", stringify!($name), "_end"),
            concat!("guest_", stringify!($name), ":"),
            $($line,)+
            concat!("guest_", stringify!($name), "_end:"),
            ".code64",
            ".popsection",
        );
        fn $name() -> &'static [u8] {
            let (start, end): (*const u8, *const u8);
            // SAFETY: two addresses in the image are loaded, nothing else.
            unsafe {
                core::arch::asm!(
                    concat!("lea {0}, [rip + guest_", stringify!($name), "]"),
                    concat!("lea {1}, [rip + guest_", stringify!($name), "_end]"),
                    out(reg) start, out(reg) end, options(nomem, nostack, preserves_flags),
                )
            };
            // SAFETY: the assembler put these bytes there, in one piece; nobody writes to them.
            unsafe { core::slice::from_raw_parts(start, end as usize - start as usize) }
        }
    };
}
pub(in crate::arch::x86_64) use guest_code;
