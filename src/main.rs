//! The program: parses the command line, starts the log, and runs the command.

use std::io::Write;
use std::process::ExitCode;

use rollcalld::http;
use rollcalld::program::Program;
use rollcalld::settings::LogFormat;
use serde_json::json;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let program = match Program::from_process() {
        Ok(program) => program,
        Err(error) => error.exit(),
    };
    // The pool logs each connection that a restart of PostgreSQL ended.
    let filter = "warn,deadpool.postgres=error,rollcalld=info";
    let filter = env_logger::Env::default().default_filter_or(filter);
    let mut logger = env_logger::Builder::from_env(filter);
    match program.log_format() {
        LogFormat::Text => logger.format_timestamp_millis(),
        LogFormat::Json => logger.format(|out, record| {
            let line = json!({
                "time": out.timestamp_millis().to_string(),
                "level": record.level().as_str(),
                "target": record.target(),
                "message": record.args().to_string(),
            });
            writeln!(out, "{line}")
        }),
    };
    let logger = logger.build();
    let level = logger.filter();
    if http::log_to(Box::new(logger), level).is_err() {
        return ExitCode::FAILURE;
    }
    let outcome = actix::System::new().block_on(program.run());
    outcome.unwrap_or_else(|error| {
        log::error!("{error}");
        ExitCode::FAILURE
    })
}
