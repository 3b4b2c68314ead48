//! The machine's serial port, as this program has it: what is read from it, and where it is written to.
//!
//! QEMU has it on its standard output and input. Bochs cannot read from there: where something is typed it connects to a socket of this
//! program's, on the loopback device, and its standard output says by its end that Bochs is gone.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// How often a connection is looked for.
const TICK: Duration = Duration::from_millis(20);

/// What is typed.
type Input = Box<dyn Write + Send>;

/// What comes out of the port, until the emulator is gone; and where something is typed, if there is such a place.
pub(super) fn open(
    output: impl Read + Send + 'static,
    input: Option<impl Write + Send + 'static>,
    listener: Option<TcpListener>,
) -> (Receiver<Vec<u8>>, Option<Input>) {
    let (sender, receiver) = mpsc::channel();
    let Some(listener) = listener else {
        thread::spawn(move || pass_on(output, &sender));
        return (receiver, input.map(|input| Box::new(input) as Input));
    };
    let over = Arc::new(AtomicBool::new(false));
    let (connection, ends) = (Connection::default(), Arc::clone(&over));
    let others = sender.clone();
    thread::spawn(move || {
        pass_on(output, &others);
        ends.store(true, Ordering::Release);
    });
    let typed = connection.clone();
    thread::spawn(move || {
        if let Some(stream) = accept(&listener, &over) {
            if let Ok(other) = stream.try_clone() {
                typed.set(other);
            }
            pass_on(stream, &sender);
        }
    });
    (receiver, Some(Box::new(connection)))
}

/// Reads without ever making the watcher wait. It ends with the emulator, which closes the pipe.
fn pass_on(mut output: impl Read, sender: &Sender<Vec<u8>>) {
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = output.read(&mut buffer) {
        if sender.send(buffer[..length].to_vec()).is_err() {
            break;
        }
    }
}

/// The one who connects, unless all is over before.
fn accept(listener: &TcpListener, over: &AtomicBool) -> Option<TcpStream> {
    listener.set_nonblocking(true).ok()?;
    while !over.load(Ordering::Acquire) {
        if let Ok((stream, _)) = listener.accept() {
            stream.set_nonblocking(false).ok()?;
            return Some(stream);
        }
        thread::sleep(TICK);
    }
    None
}

/// A connection that may not be there yet.
#[derive(Clone, Default)]
struct Connection(Arc<Mutex<Option<TcpStream>>>);

impl Connection {
    fn set(&self, stream: TcpStream) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(stream);
    }
}

impl Write for Connection {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(stream) => stream.write(bytes),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
