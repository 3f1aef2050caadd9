// Loggers of Node: node.js LIBRARY [tls]
'use strict'

const [library, how] = process.argv.slice(2)
const secure = how === 'tls'
const token = process.env.TOKEN

const loggers = {
  r7insight () {
    const Logger = require('r7insight_node')
    return new Logger({ token, region: 'eu', secure })
  },
  le_node () {
    const Logger = require('le_node')
    return new Logger({ token, secure })
  },
  'node-logentries' () {
    return require('node-logentries').logger({ token, secure })
  },
  winston () {
    const winston = require('winston')
    require('r7insight_node')
    return winston.createLogger({ transports: [new winston.transports.Insight({ token, region: 'us', secure })] })
  },
  bunyan () {
    const Logger = require('r7insight_node')
    const stream = Logger.bunyanStream({ token, region: 'us', secure })
    return require('bunyan').createLogger({ name: 'shop', streams: [stream] })
  },
  log4js () {
    const log4js = require('log4js')
    // One entry is one line: line breaks become U+2028.
    const line = event => event.data.join(' ').replaceAll('\n', '\u2028')
    const layout = { type: 'pattern', pattern: `${token} %p %x{line}`, tokens: { line } }
    log4js.configure({
      appenders: { engine: { type: 'tcp', host: 'localhost', port: 10000, endMsg: '\n', layout } },
      categories: { default: { appenders: ['engine'], level: 'info' } }
    })
    return log4js.getLogger()
  }
}

const log = loggers[library]()
for (const message of JSON.parse(process.env.MESSAGES)) log.info(message)

// Until all is stored.
process.stdin.resume()
process.stdin.on('end', () => process.exit())
