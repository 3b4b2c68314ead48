//! What our user space is told to do where it waits for that: each guest by a line of its own, and what each must print then.
//!
//! Protocol: with [`VARIABLE`] on its command line the guest begins some work, prints [`READY`] while that goes on, and reads a line
//! from its serial port: the name of a function of its script and its arguments. It prints [`RESULT`] and what came of that, then the
//! same for the work that it had begun before, and at last what it was told, out of a page that it wrote before all that.
//!
//! With [`pages_variable`] on its command line the guest needs nobody to tell it anything: it fills pages and looks at them later.

use super::initramfs::{payload, sha256};
use slat_hv_protocol::Span;
use slat_hv_protocol::pause::{PATTERN, Pause, Then};

/// Has the guest wait for a command. The kernel passes it on to the guest's init. The serial port must not become a console.
pub(crate) const VARIABLE: &str = "SLAT_COMMANDS=1 console=none";

/// The guest waits for a command.
pub(crate) const READY: &str = "slat-init: ready";

/// What came of a command follows.
pub(crate) const RESULT: &str = "slat-init: result ";

/// What the guest has begun before it is told anything: additions of floating-point numbers.
const FRACTIONS: u32 = 40_000;

/// The variable of the guest's command line with a number of pages.
const PAGES: &str = "SLAT_PAGES";

/// How often the guest reads its payload while its pages are idle.
const IDLE: u32 = 8;

/// The part of the guest's script. It computes, writes, and looks at the system.
pub(crate) const SCRIPT: &str = r#"
result() { say "result $*"; }
sum() {
    i=0
    while [ $i -lt "$1" ]; do cat /payload; i=$((i + 1)); done | sha256sum > /tmp/sum
    read -r digits rest < /tmp/sum
    result "$digits"
}
write() {
    i=0
    while [ $i -lt "$2" ]; do echo "$1 $i" > "/tmp/own/$1-$i"; i=$((i + 1)); done
    result "$(ls /tmp/own | wc -l) files, $(cat /tmp/own/* | wc -c) bytes of $(cat /tmp/own/* | cut -d' ' -f1 | sort -u)"
}
list() {
    set -- /proc/[0-9]*
    [ $# -gt 10 ] || result "$# processes"
    result "processes of $(cat /proc/1/comm)"
}
pattern() {
    k=0
    while [ $k -lt "$2" ]; do echo "PATTERN $k 0" > /tmp/own/$k; k=$((k + 1)); done
    wait
    say ready
    i=0
    wrong=0
    while [ $i -lt "$1" ]; do
        k=0
        while [ $k -lt "$2" ]; do
            read -r found < /tmp/own/$k
            [ "$found" = "PATTERN $k $i" ] || wrong=$((wrong + 1))
            echo "PATTERN $k $((i + 1))" 1<> /tmp/own/$k
            k=$((k + 1))
        done
        i=$((i + 1))
    done
    k=0
    while [ $k -lt "$2" ]; do cat /tmp/own/$k; k=$((k + 1)); done | sha256sum > /tmp/sum
    read -r digits rest < /tmp/sum
    result "$wrong wrong, then $digits"
}
look() {
    sha256sum < /pages/all > /pages/sum || { echo "there is no sum"; return 1; }
    read -r digits rest < /pages/sum
    result "$digits"
}
pages() {
    mkdir /pages
    mount -t tmpfs -o size=75% tmpfs /pages || { echo "there is no tmpfs"; return 1; }
    awk "BEGIN { for (i = 0; i < $1; i++) printf \"%-4095s\\n\", \"PATTERN \" i }" > /pages/all || return 1
    i=0
    while [ $i -lt IDLE ]; do cat /payload; i=$((i + 1)); done | sha256sum > /pages/sum
    look || return 1
    awk "BEGIN { for (i = 0; i < $1; i++) printf \"%-4095s\\n\", \"PATTERN again \" i }" 1<> /pages/all || return 1
    look || return 1
    umount /pages
}
commands() {
    mkdir -p /tmp /proc
    mount -t tmpfs tmpfs /tmp || { echo "there is no tmpfs"; return 1; }
    mount -t proc proc /proc || { echo "there is no proc"; return 1; }
    mkdir /tmp/own
    echo "PATTERN nobody" > /tmp/whose
    stty -F /dev/ttyS0 raw -echo || return 1
    exec 3<> /dev/ttyS0
    awk "BEGIN { for (i = 1; i <= FRACTIONS; i++) s += 1 / i; printf \"%.10f\", s }" > /tmp/fractions &
    say ready
    read -r command <&3
    # In place: no other page of memory.
    echo "PATTERN $command" 1<> /tmp/whose
    $command || { echo "$command failed"; return 1; }
    wait
    result "$(cat /tmp/fractions)"
    read -r whose < /tmp/whose
    result "${whose#PATTERN }"
}
"#;

/// The script, with its numbers.
pub(crate) fn script() -> String {
    SCRIPT
        .replace("FRACTIONS", &FRACTIONS.to_string())
        .replace("PATTERN", PATTERN)
        .replace("IDLE", &IDLE.to_string())
}

/// Has the guest write so many pages, leave them alone for a while, read them, write them again and read them again; before its
/// other work.
pub(crate) fn pages_variable(pages: u64) -> String {
    format!("{PAGES}={pages}")
}

/// What it must print of that.
pub(crate) fn pages_results(pages: u64) -> Vec<String> {
    let sum = |what: &str| {
        let pages: String =
            (0..pages).map(|page| format!("{:<4095}\n", format!("{PATTERN} {what}{page}"))).collect();
        sha256(pages.as_bytes())
    };
    vec![sum(""), sum("again ")]
}

/// A command and what the guest must print.
struct Command {
    line: String,
    result: String,
}

/// Command `number`: no two of the first eight are the same, so that no guest can take another's result for its own.
fn command(number: u32, seed: u64) -> Command {
    match number % 3 {
        0 => {
            let times = 1 + number;
            let bytes = payload(seed).repeat(times as usize);
            Command { line: format!("sum {times}"), result: sha256(&bytes) }
        }
        1 => {
            let (name, files) = (format!("guest-{number}"), 20 + number);
            let bytes: usize = (0..files).map(|file| format!("{name} {file}\n").len()).sum();
            let result = format!("{files} files, {bytes} bytes of {name}");
            Command { line: format!("write {name} {files}"), result }
        }
        _ => Command { line: "list".to_owned(), result: "processes of init".to_owned() },
    }
}

/// The command for a guest that moves: it writes to many pages again and again, each with one file in it, and finds there what it
/// wrote the last time. It does so alone, and says when it begins.
fn pattern() -> Command {
    const TIMES: u32 = 8;
    const PAGES: u32 = 64;
    let pages: String = (0..PAGES).map(|page| format!("{PATTERN} {page} {TIMES}\n")).collect();
    let result = format!("0 wrong, then {}", sha256(pages.as_bytes()));
    Command { line: format!("pattern {TIMES} {PAGES}"), result }
}

/// The sum of the fractions, as awk prints it: it adds them in the same order.
fn fractions() -> String {
    let sum = (1..=FRACTIONS).fold(0.0, |sum, number| sum + 1.0 / f64::from(number));
    format!("{sum:.10}")
}

/// What a guest with a payload made from `seed` is told when it waits, and `then` is done with it; and for each guest the results that
/// it must print.
pub(crate) fn pause(then: Then, seed: u64) -> (Pause, Vec<Vec<String>>) {
    let commands: Vec<_> = match then {
        // The first one is told, and it is the second one that has the result.
        Then::Migrate => vec![pattern(), pattern()],
        _ => (0..=then.more_guests()).map(|number| command(number, seed)).collect(),
    };
    let (lines, results) = commands
        .into_iter()
        .map(|Command { line, result }| (line.clone(), vec![result, fractions(), line]))
        .unzip();
    (Pause { text: READY.to_owned(), then, image: Span::default(), commands: lines }, results)
}
