//! A guest that does one thing, chosen by the word `scenario=NAME` in its command line, and says how it went.
//!
//! It prints `test-guest: NAME: begin`, and before it powers off `test-guest: NAME: ok`. A check that fails prints
//! `test-guest: NAME: FAILED: why` and ends in a reset, so power-off alone means success.
//!
//! | scenario          | what it does                                                    | must end with |
//! |-------------------|-----------------------------------------------------------------|---------------|
//! | `ok`              | prints                                                          | power-off     |
//! | `touch-all`       | writes a word to each page of its RAM                           | power-off; `populated` is RAM / 4 KiB (leaf `4k`) or RAM / 2 MiB |
//! | `write-device-ok` | reads identification registers of the UART and the GIC, writes  | power-off     |
//! | `wfi-storm`       | 200 times: arms the virtual timer, waits for its interrupt      | power-off     |
//! | `psci-cpu-on`     | CPU_ON, AFFINITY_INFO, CPU_OFF, FEATURES: checks each answer    | power-off     |
//! | `smc`             | the same calls by SMC, and one unknown                          | power-off     |
//! | `hvc-unknown`     | unknown functions and a reserved immediate: NOT_SUPPORTED       | power-off     |
//! | `undef-sysreg`    | accesses a trapped register, expects an undefined instruction   | power-off     |
//! | `inject`          | reads, writes, fetches at a hole (`on_fault=inject`), expects a synchronous external abort with that address each time | power-off, `injected_aborts` 3 |
//! | `inject-device`   | fetches from the UART (`on_fault=inject`), expects the same     | power-off, `injected_aborts` 1 |
//! | `reset`           | asks for a reset                                                | reset         |
//! | `hole`            | reads 0x0a000000, a device of the machine that is not its own   | fault at that GPA, read |
//! | `hole-write`      | writes there                                                    | fault at that GPA, write |
//! | `too-wide`        | reads GPA 1 << 42; wider than stage 2 with `gpa_bits` 40         | fault at that GPA, outside |
//! | `exec-device`     | branches into the UART                                          | fault at 0x09000000, fetch, permission |
//! | `walk-hole`       | turns its MMU on with the table in a hole                       | fault in 0x0a000000, table walk |
//! | `second-cpu`      | CPU 1, on two CPUs: each refusal of CPU_ON, then on and off 50 times | power-off |
//! | `off-while-busy`  | powers off while CPU 1 is in a loop without exits               | power-off     |
//! | `off-while-waiting` | powers off while CPU 1 waits for an interrupt that never comes | power-off    |
//! | `off-from-second` | CPU 1 powers off while CPU 0 is in a loop without exits         | power-off     |
//! | `hole-on-second`  | CPU 1 reads the hole while CPU 0 is in a loop                   | fault at that GPA |
//! | `change-places`   | CPU 0 goes off, CPU 1 turns it on again and goes off            | power-off     |
//! | `stale-move`      | CPU 1 reads a page in a loop without exits; CPU 0 has it moved and writes to it: CPU 1 must see that, and never the old frame | power-off |
//! | `stale-protect`   | CPU 1 writes to a page in a loop; CPU 0 has it write-protected (`on_fault=inject`): CPU 1 must get an abort, and no store may arrive after that | power-off, `injected_aborts` 1 |
//! | `stale-renew`     | as `stale-move`, but the page is unmapped and populated anew, after others were populated | power-off |
//! | `stale-table`     | CPU 1 walks its stage-1 tables for each read; CPU 0 has the last of them moved | power-off |
//! | `stale-alone`     | moves, renews and write-protects (`on_fault=inject`) pages that the only CPU uses itself | power-off, `injected_aborts` 1 |
//! | `emulated-uart` | loads and stores of every width, kind of extension and register at the emulated UART | power-off, no access refused |
//! | `hostile-uart`  | accesses that the emulated UART does not take or the hardware does not decode (`on_fault=inject`): an abort each time | power-off, each refused |
//! | `hostile-buffer` | hypercalls about buffers in holes, devices, read-only pages, around the end of everything, and by chance: checks each answer. `contrary=N`: the N-th comparison, of these three, expects something wrong | power-off, all answered |
//! | `no-vector`       | VBAR in a hole, then a fault (`on_fault=inject`)                | no end: the guest loops; a time-out is right, and so is an end by the hypervisor |
//! | `wild`            | executes random words 5000 times over, each until the next exception; `seed=N` in the command line | anything but a failure of the hypervisor; a time-out is right |
//!
//! On RISC-V there are `ok`, `touch-all`, `reset`, `hole`, `hole-write`, `too-wide` (`gpa_bits` 41), `walk-hole` and `wild`
//! as above, `inject` with access faults, and
//!
//! | scenario          | what it does                                                    | must end with |
//! |-------------------|-----------------------------------------------------------------|---------------|
//! | `sbi`             | calls of every extension, unknown ones, harts that do not exist, wild buffers: checks each answer | power-off |
//! | `hypervisor-instructions` | executes what HS-mode alone may: an illegal instruction each time | power-off |
//! | `isolation`       | several guests (`on_fault=inject`): guest 0 sums its memory up in `rounds=N` rounds and changes it; the others write to each address that is not theirs, wide and unaligned ones too, and to all that is | power-off of each; as many accesses refused as they count |

#![cfg_attr(target_os = "none", no_std)]
#![cfg_attr(target_os = "none", no_main)]

mod arch;

#[cfg(not(target_os = "none"))]
fn main() -> std::process::ExitCode {
    eprintln!(
        "slat-test-guest runs as a guest of slat-hv: build it for aarch64-unknown-none-softfloat or riscv64imac-unknown-none-elf"
    );
    std::process::ExitCode::from(2)
}
