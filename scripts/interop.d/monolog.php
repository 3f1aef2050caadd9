<?php
// Monolog: monolog.php HANDLER [tls]
require 'Monolog/autoload.php';

use Monolog\Handler\InsightOpsHandler;
use Monolog\Handler\LogEntriesHandler;
use Monolog\Logger;

$tls = ($argv[2] ?? '') === 'tls';
$handler = $argv[1] === 'insightops'
    ? new InsightOpsHandler(getenv('TOKEN'), 'us', $tls)
    : new LogEntriesHandler(getenv('TOKEN'), $tls);

$log = new Logger('shop', [$handler]);
foreach (json_decode(getenv('MESSAGES')) as $message) {
    $log->info($message);
}
