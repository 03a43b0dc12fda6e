use crate::result::RunResult;
pub fn page(_: &RunResult) -> String { String::new() }
pub fn run(_: &std::path::Path, _: Option<std::path::PathBuf>) -> anyhow::Result<std::process::ExitCode> { Ok(std::process::ExitCode::SUCCESS) }
