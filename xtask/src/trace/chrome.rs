//! A trace in the format of Chrome's trace events, which Perfetto and `chrome://tracing` open: one track for each CPU, faults,
//! operations and invalidations as complete events in it, the frames in use as a counter.
//!
//! The format: "Trace Event Format", JSON object form. Times are microseconds from the first event on.

use super::Trace;
use anyhow::Result;
use serde_json::{Value, json};
use slat::Reach;
use slat::trace::{Event, What};
use std::io::Write;

/// There is one process: the machine.
const PROCESS: u32 = 1;

/// Writes `trace`, of a run with this title, to `writer`, one event in each line.
pub(crate) fn write(trace: &Trace, title: &str, writer: &mut impl Write) -> Result<()> {
    let mut lines = vec![json!({
        "name": "process_name", "ph": "M", "pid": PROCESS, "args": { "name": title },
    })];
    lines.extend(trace.cpus().into_iter().map(|cpu| {
        json!({
            "name": "thread_name", "ph": "M", "pid": PROCESS, "tid": cpu, "args": { "name": format!("CPU {cpu}") },
        })
    }));
    writeln!(writer, "{{\"displayTimeUnit\":\"ns\",\"traceEvents\":[")?;
    let all = lines.into_iter().chain(trace.events.iter().filter_map(|event| line(trace, event)));
    for (number, line) in all.enumerate() {
        writeln!(writer, "{}{line}", if number == 0 { "" } else { "," })?;
    }
    let about = json!({
        "overwritten": trace.overwritten,
        "dropped": trace.dropped,
        "clock": if trace.measured { "scaled to the time that the run took" } else { "the machine's" },
    });
    writeln!(writer, "],\"otherData\":{about}}}")?;
    Ok(())
}

/// One event; `None` if it is the host's and nothing is known of it.
fn line(trace: &Trace, event: &Event) -> Option<Value> {
    let hex = |number: u64| format!("{number:#x}");
    let (name, category, mut arguments) = match event.what {
        What::Fault { gpa, access, answer, leaf } => {
            let arguments = json!({
                "gpa": hex(gpa.as_u64()),
                "access": access.to_string(),
                "answer": answer.name(),
                "leaf": leaf.map(|leaf| leaf.to_string()),
            });
            (format!("fault: {answer}"), if answer.is_refused() { "refused" } else { "fault" }, arguments)
        }
        What::Operation { operation, start, size, result } => {
            let (count, refusal) = (result.ok(), result.err().map(|refusal| refusal.name()));
            let arguments = json!({
                "start": hex(start.as_u64()), "size": hex(size), "count": count, "refused": refusal,
            });
            (operation.to_string(), "operation", arguments)
        }
        What::Invalidation { scope, reach, start, size } => {
            let arguments = json!({
                "reach": match reach {
                    Reach::AllCpus => "all CPUs",
                    Reach::ThisCpu => "this CPU",
                },
                "start": hex(start.as_u64()),
                "size": hex(size),
            });
            (format!("invalidation of {scope}"), "invalidation", arguments)
        }
        What::Host { code: slat_hv_protocol::trace::FRAMES, values: [in_use, ..] } => {
            return Some(json!({
                "name": "frames in use", "ph": "C", "ts": time(trace.microseconds(event.begin)), "pid": PROCESS,
                "args": { "frames": in_use },
            }));
        }
        _ => return None,
    };
    arguments["tag"] = event.tag.into();
    arguments["root"] = hex(event.root.as_u64()).into();
    Some(json!({
        "name": name, "cat": category, "ph": "X", "pid": PROCESS, "tid": event.cpu,
        "ts": time(trace.microseconds(event.begin)), "dur": time(trace.duration(event)), "args": arguments,
    }))
}

/// Microseconds, to the nanosecond.
fn time(microseconds: f64) -> f64 {
    (microseconds * 1e3).round() / 1e3
}

#[cfg(test)]
pub(crate) mod tests;
