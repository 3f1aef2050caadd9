# Ruby's own Logger over a socket: logger.rb tcp|tls
require 'json'
require 'logger'
require 'openssl'
require 'socket'

socket = TCPSocket.new('localhost', ARGV[0] == 'tls' ? 443 : 80)
if ARGV[0] == 'tls'
  context = OpenSSL::SSL::SSLContext.new
  context.set_params
  socket = OpenSSL::SSL::SSLSocket.new(socket, context)
  socket.hostname = 'localhost'
  socket.sync_close = true
  socket.connect
  socket.post_connection_check('localhost')
end

log = Logger.new(socket)
# One entry is one line: line breaks become U+2028.
log.formatter = proc { |level, _, _, message| "#{ENV['TOKEN']} #{level} #{message.gsub("\n", "\u2028")}\n" }
JSON.parse(ENV['MESSAGES']).each { |message| log.info(message) }
log.close
