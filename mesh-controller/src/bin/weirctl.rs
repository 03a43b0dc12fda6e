//! `weirctl`: what it was told on the command line, and then to it.

use std::{
    io::{self, BufWriter, Write as _},
    process::ExitCode,
};

use weir_controller::ctl::{self, Exit, args::Arguments};

fn main() -> ExitCode {
    let arguments = match <Arguments as clap::Parser>::try_parse() {
        Ok(arguments) => arguments,
        Err(message) => {
            // Nobody is left to be told that it could not be printed.
            let _ = message.print();
            // Help and version are no errors.
            return if message.use_stderr() { Exit::Usage.into() } else { ExitCode::SUCCESS };
        }
    };
    // Before anything speaks TLS: libraries would choose another one. The error would be one that is
    // installed already, and nothing ran before.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut out = BufWriter::new(io::stdout().lock());
    let result = ctl::run(arguments, &mut out);
    // A reader that has seen enough, like `head`, is no reason to fail.
    let _ = out.flush();
    let Err(failure) = result else { return ExitCode::SUCCESS };
    let _ = writeln!(io::stderr().lock(), "Error: {:#}", failure.error);
    failure.exit.into()
}
