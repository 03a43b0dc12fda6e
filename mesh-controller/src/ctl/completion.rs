//! `weirctl completion`.

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::args::Arguments;

pub fn script(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "weirctl", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}
